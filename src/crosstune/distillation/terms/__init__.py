"""What a student learns from its teacher: each term a sum over tokens or rows, with its zero point."""
