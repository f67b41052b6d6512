"""`workbench verify`: what the workbench computes, held against answers known in closed form."""
