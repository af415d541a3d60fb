"""The file formats in which people have models; each module makes one readable by the engine."""
