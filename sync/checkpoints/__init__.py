"""What is in a checkpoint, without running or rebuilding anything of it (I23).

    pickles      a reader of pickles that makes inert notes of everything
    tensors      the tensors and values among such notes
    torchfile    PyTorch's zip archives, and the plain pickles of before
    safetensors  the header of a safetensors file
    contents     any of them, and what is told of it

Neither torch nor Python's own pickle module is loaded. A file may be anybody's: how much is read
of it, how long that takes, how deep it nests and how much memory it needs are bounded.
"""
