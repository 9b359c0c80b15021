"""Experts: a LoRA for every skill that is new, mixed per token, and ordinary PEFT adapters at the end."""
