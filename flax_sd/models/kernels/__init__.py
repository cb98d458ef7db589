"""Operations that networks choose between by device and shape."""
