"""Operations on a whole LoRA."""
