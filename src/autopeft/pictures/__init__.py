"""Pictures: one a file, its data, which are tested, and then its drawing.

Every picture is a frozen dataclass made by a pure ``*_data`` function; it carries its own size, a description in words
(`alt`) for readers who do not see it, and draws itself. Values stay natural: the cost in its own unit, metric as
measured. They are those of AutoPEFT (arXiv 2301.12132), learning curves and retrained points.
"""
