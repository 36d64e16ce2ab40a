"""Input shards from what people really have: tables, collections, long documents, dialogues."""
