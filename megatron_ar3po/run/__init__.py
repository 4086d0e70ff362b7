"""What makes a run one thing on the disk: its folder, its state, its checkpoints, its end."""
