"""The taxonomy: category → application domain → entity, as data."""
