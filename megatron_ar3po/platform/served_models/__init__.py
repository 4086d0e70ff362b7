"""The models that a server of this project serves, as a package of SGLang's switch SGLANG_EXTERNAL_MODEL_PACKAGE.

With it SGLang registers what the modules here name, and imports its own 250 model files, a second of processor time,
only when it is asked for another architecture. The classes are SGLang's own.
"""
