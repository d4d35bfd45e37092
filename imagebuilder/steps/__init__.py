"""What is done to a base, one kind of step per module.

A step is a frozen value that says what it depends on and what it writes."""
