"""What a pickle says of weights, learned without doing anything that it says.

A pickle is a program for a stack machine (https://docs.python.org/3/library/pickletools.html). The
machine here knows data alone: nothing is imported and nothing called. A name stays a name, and what
would be made of it is recorded: as a tensor, as a dictionary, or as an inert object.

This package runs in a process of its own that has given up all it could, see `child`. It is found
there by itself, under the name ``unpickler``: so it imports the standard library and, relatively,
its own modules, and nothing else of the project.
"""
