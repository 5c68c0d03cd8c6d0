"""What a stage needs of other sections of the recipe: a file a stage, read by `stages.checks`, by no stage."""
