"""`ar3po data`: files of prompts, made ready for training and evaluation, checked against each other, looked at."""
