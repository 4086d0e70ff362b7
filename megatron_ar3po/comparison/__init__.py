"""`ar3po compare-algorithms`: variants of the objective trained on equal prompts and paired seeds, as one table
and one figure.

experiment   which variants, seeds and limits; from the command line or an experiment file
runner       one `ar3po train` after the other, each with a time limit, none repeated
curves       a run's metrics.jsonl as accuracy against responses, tokens and seconds, and its costs
statistics   mean, Student t, paired differences
results      all runs -> the figures of the comparison
table, figure    how they are shown
"""
