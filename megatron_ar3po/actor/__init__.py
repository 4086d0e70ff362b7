"""The Megatron side: the policy as a Megatron-Core model, its log-probs, its update, its checkpoints, its weights under
Hugging Face names.

Promises: the same loss, gradients and weights for every layout (TP, PP, DP, sequence parallel) and every cut into
micro-batches; prompt tokens never reach the output layer; no [T, V] fp32 tensor exists whole.
"""

from megatron_ar3po.platform import megatron_cpu

megatron_cpu.install()  # before anything below imports megatron.core; nothing to do where there is a GPU
