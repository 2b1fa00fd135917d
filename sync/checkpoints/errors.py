"""Why the contents of a checkpoint cannot be told."""


class Unreadable(Exception):
    """It is damaged, made to do harm, or larger than what is looked at. The message is for people.

    Nothing else is raised by this package, whatever the file holds.
    """
