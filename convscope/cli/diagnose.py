"""``convscope diagnose``: what is wrong with a network, and what to change."""


def diagnose() -> None:
    """What is wrong with a network, and what to change."""
    # Stands in the list of commands. What is called is made of the study's settings, as `convscope study` does: see
    # app.Commands.
