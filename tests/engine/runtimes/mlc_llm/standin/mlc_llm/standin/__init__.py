"""What the real mlc_llm does not have: the stand-in's answers and its troubles."""
