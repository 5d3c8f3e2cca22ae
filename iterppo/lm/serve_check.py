"""Run by path in a fresh process, without iterppo: does plain transformers load this folder and
complete a prompt?

python serve_check.py FOLDER < messages.json        # prints {"prompt_ids": […], "completion": "…"}
"""

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Load, render, complete."""
    folder = sys.argv[1]
    messages = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    inputs: Any = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    torch.manual_seed(0)
    output = model.generate(**inputs)
    prompt_ids = inputs["input_ids"][0].tolist()
    completion = tokenizer.decode(output[0][len(prompt_ids) :], skip_special_tokens=True)
    print(json.dumps({"prompt_ids": prompt_ids, "completion": completion}))


if __name__ == "__main__":
    main()
