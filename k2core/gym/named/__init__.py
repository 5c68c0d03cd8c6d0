"""The environments that the recipe names with their settings (section `gym`): a module for each kind."""
