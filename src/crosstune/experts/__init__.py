"""Experts that are born when something new arrives: LoRA experts mixed per token, ordinary PEFT adapters at the end."""
