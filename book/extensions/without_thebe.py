"""Sphinx extension that takes sphinx-thebe out again, which jupyter-book always loads: its script is not on this host, and its
settings are written into some pages twice, which is an error in the browser."""


def setup(app):
    """Keep its configuration value, which the theme asks for; remove what it would do."""
    app.setup_extension("sphinx_thebe")
    for listeners in app.events.listeners.values():
        listeners[:] = [listener for listener in listeners if not listener.handler.__module__.startswith("sphinx_thebe")]
    app.registry.css_files = [file for file in app.registry.css_files if "thebe" not in file[0]]
    return {"parallel_read_safe": True, "parallel_write_safe": True}
