TEXT = "the function's"
