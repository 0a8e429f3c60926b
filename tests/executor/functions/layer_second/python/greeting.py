TEXT = "the second layer's"
