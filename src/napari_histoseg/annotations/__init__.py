"""What a person drew or said: patch datasets and regions."""
