"""Pictures of clips and results.

``clips``, ``gallery``, ``tsne``, ``confusion`` and ``curves`` make the figures, ``page`` collects them.
``skeleton`` draws clips, ``pictures`` composes them, ``plots`` is shared.
"""
