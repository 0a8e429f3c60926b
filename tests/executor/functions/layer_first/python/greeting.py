TEXT = "the first layer's"
