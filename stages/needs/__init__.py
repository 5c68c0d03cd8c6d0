"""What a stage needs of other sections of the recipe: one file per stage, read by `stages.checks` and by no stage."""
