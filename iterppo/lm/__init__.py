"""Language models: the only room that imports transformers, trl, peft and deepspeed."""
