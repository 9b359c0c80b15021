"""Between stages: the live model of any trainer, repaired in place when its training ends."""
