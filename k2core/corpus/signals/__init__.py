"""Attributes of a document: one module per signal; thresholds come later, in curation. A new signal is a module with

- `COLUMNS`, column → its Arrow type;
- `attributes(...)`, which gives the values of these columns. Its arguments say what it needs: `text`, `words`
  (`split_words(text)`), `language_characters` of section `tag`, or a column of another signal;
- `DOMAIN`, if only documents of one domain have it. All others get nulls.
"""
