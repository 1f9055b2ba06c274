"""What only a real model can prove."""
