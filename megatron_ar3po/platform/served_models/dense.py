"""`model_shape.SUPPORTED`, for SGLang's registry. Imported in the server's processes only."""

from sglang.srt.models.llama import LlamaForCausalLM
from sglang.srt.models.qwen2 import Qwen2ForCausalLM
from sglang.srt.models.qwen3 import Qwen3ForCausalLM

EntryClass = [Qwen2ForCausalLM, Qwen3ForCausalLM, LlamaForCausalLM]
