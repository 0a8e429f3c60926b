TEXT = "a layer's"
