"""The mask predictor: LLaDA's architecture, its vocabulary head and cache, loading, adapters, and the reference policy."""
