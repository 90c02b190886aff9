"""What a layer remembers instead of its input: why `backward` has nothing to work with."""

UNCALLED = "the layer has not been called yet"
EVALUATED = ("the last call was in evaluation mode, which remembers nothing; train() is the mode "
             "that does")
OVERLAPPED = "in the last call, out overlapped x, where or a parameter, which are gone"
SPENT = "the last call has had its backward; each call has one"
