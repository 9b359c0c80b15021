"""How factors are captured: of which projections, of which rows, with which labels, in which passes."""
