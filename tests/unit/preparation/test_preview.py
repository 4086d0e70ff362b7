"""`ar3po data preview`: rendered prompts, lengths, sources, and what would be left out. A real tokenizer."""

from __future__ import annotations

import json

from megatron_ar3po.cli import main


def test_a_preview_shows_prompts_lengths_sources_and_what_is_left_out(tiny_task, tmp_path, capsys):
    rows = [
        *({"prompt": f"{n}+1=", "answer": str(n + 1), "source": "sums"} for n in (1, 2, 30)),
        {"prompt": "1+" * 20, "answer": "1"},
        {"prompt": "5+5="},
        {"prompt": "6+6=", "answer": "twelve"},
    ]
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("".join(json.dumps(row) + "\n" for row in rows))
    two.write_text(json.dumps({"prompt": "9+1=", "answer": "10"}) + "\n")
    words = [
        f"model.path={tiny_task}/model",
        f"data.mixture={{{one}: 1, {two}: 3}}",
        "data.max_prompt_tokens=16",
        "rewards.verifier=last_number",
    ]
    assert main(["data", "preview", *words, "--prompts", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("prompt 1 of 4: 4 tokens (special: none), answer '2', source 'sums'\n")
    assert "4 prompts of 4 to 5 tokens, half of them below 4" in said
    assert "   4-4            3 ###" in said and "   5-5            1 ###" in said
    assert "        3 of the source sums" in said and "        1 of the source (none)" in said
    assert f"        1 of the file {two}" in said
    assert f"1 rows are broken:\n  {one}:5: no answer" in said
    assert f"data.max_prompt_tokens=16:\n  {one}:4: 40 tokens" in said
    assert "1 of 5 answers can never be graded" in said and f"{one}:6: 'twelve'" in said
