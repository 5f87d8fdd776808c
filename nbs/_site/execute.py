"""Execute notebooks in the folder they belong to, and keep what they show.

    python nbs/_site/execute.py nbs/kaggle.ipynb --out output      the executed notebook and a page of it
    python nbs/_site/execute.py nbs/*.ipynb --in-place              outputs into the notebooks themselves"""
import argparse, re, sys
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

def execute(path, cwd):
    "Run a notebook in `cwd`; outputs and final widget states are kept in the returned notebook."
    nb = nbformat.read(path, as_version=4)
    NotebookClient(nb, timeout=3600, kernel_name='python3', resources={'metadata': {'path': str(cwd)}}).execute()
    for c in nb.cells:
        c.metadata.pop('execution', None)
        for o in c.get('outputs', ()):  # a widget without its kernel does nothing; what has HTML too is shown by that
            if 'text/html' in o.get('data', ()): o.data.pop('application/vnd.jupyter.widget-view+json', None)
        if 'outputs' in c: c.outputs = [o for o in c.outputs if o.get('data') != {'text/plain': ''}]  # a widget closed
    nb.metadata.pop('widgets', None)
    return nb

def page(nb):
    "A notebook as one HTML page that asks the network for nothing."
    shown = nbformat.from_dict({**nb, 'cells': [c for c in nb['cells'] if not c['source'].startswith('#| hide')]})
    html, _ = HTMLExporter(template_name='lab', embed_images=True).from_notebook_node(shown)
    from_elsewhere = r'<script[^>]*\bsrc="https?:[^>]*>\s*</script>|<script type="module">.*?</script>'
    return re.sub(from_elsewhere, '', html, flags=re.S)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebooks', nargs='+', type=Path)
    p.add_argument('--out', type=Path)
    p.add_argument('--in-place', action='store_true')
    args = p.parse_args()
    for path in args.notebooks:
        print(f'Executing {path}', file=sys.stderr)
        nb = execute(path, path.parent if args.in_place else Path.cwd())
        if args.in_place: nbformat.write(nb, path); continue
        args.out.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, args.out/path.name)
        html = page(nb).replace(f'href="{args.out.as_posix()}/', 'href="')  # links as seen from the page's own folder
        (args.out/f'{path.stem}.html').write_text(html, encoding='utf-8')
        print(f'Done. Open {args.out/path.stem}.html in a browser; the outputs are beside it.', file=sys.stderr)

if __name__ == '__main__': main()
