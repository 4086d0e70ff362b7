"""The checks of tools/prove_gpu.py: each a function of a `Stand`, which says on what device and at what size it runs.

The same functions run on the CPU in unit tests (tests/unit/tools/test_prove.py) and on a GPU in tests/gpu; what only a
device can say (kernel names, memory as the driver counts it, utilisation) is a reading of its own, which a check asks
for and does without where there is none.
"""
