"""The picture that previews of a link show: the name, what it is, and a map of vectors as the package draws it.

    python nbs/_site/social.py

The points are the vectors of the demo corpus, a few chunks of each package, embedded with the packaged model."""
import configparser, tempfile, textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT/'nbs/_site/static/social.png'
INK, PALE, NIGHT = '#ffffff', '#b8c0cc', '#14181f'

def described():
    "The description in settings.ini."
    settings = configparser.ConfigParser(delimiters='=')
    settings.read(ROOT/'settings.ini', encoding='utf-8')
    return settings['DEFAULT']['description']

def points():
    "(x, y, folder) of some chunks, placed as in a map."
    import numpy as np
    from coderank_qdrant.all import demo_corpus, embed_corpus
    with tempfile.TemporaryDirectory() as folder:
        run = embed_corpus(demo_corpus(folder, limit=60), Path(folder)/'run', profile='offline')
        found = [(chunk.metadata['source_subdir'], vectors.mean(0)) for chunk,_,vectors in run.records()]
    centred = np.array([vector for _,vector in found])
    centred -= centred.mean(0)
    places = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    return places, [folder for folder,_ in found]

def draw(places, folders):
    "1200 by 630 pixels."
    from matplotlib.figure import Figure
    from coderank_qdrant.show import COLOURS
    fig = Figure(figsize=(12, 6.3), dpi=100, facecolor=NIGHT)
    ax = fig.add_axes((.56, .08, .42, .84))
    ax.axis('off')
    for colour,folder in zip(COLOURS*2, dict.fromkeys(folders), strict=False):
        mine = [i for i,name in enumerate(folders) if name == folder]
        ax.scatter(*places[mine].T, s=46, color=colour, alpha=.85, linewidths=0)
    fig.text(.055, .68, 'coderank_qdrant', fontsize=40, weight='bold', color=INK)
    lines = textwrap.wrap(described(), 36)
    fig.text(.055, .60, '\n'.join(lines), fontsize=22, color=PALE, va='top', linespacing=1.5)
    return fig

if __name__ == '__main__': draw(*points()).savefig(FILE, facecolor=NIGHT, metadata=dict(Software=None))
