"README.md from nbs/index.ipynb: prose, code and outputs as Markdown, figures as files beside the notebook."
import base64, json, re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = Path('nbs/index_files')

def output(o, cell_id, images):
    "One output as Markdown: a figure, a table as it is, anything else indented as code."
    data = o.get('data', {})
    if 'image/png' in data:
        images[f'{cell_id}.png'] = base64.b64decode(data['image/png'])
        return f'![]({IMAGES/cell_id}.png)'
    if 'text/markdown' in data: return ''.join(data['text/markdown'])
    if 'text/html' in data: return re.sub(r' style="[^"]*"| class="[^"]*"', '', ''.join(data['text/html']))
    text = ''.join(o.get('text') or data.get('text/plain') or [])
    if not text or o.get('name') == 'stderr': return ''
    return '\n'.join(f'    {line}'.rstrip() for line in text.rstrip().splitlines())

def cell(c, images):
    source = ''.join(c['source'])
    if c['cell_type'] == 'markdown': return source
    if re.search(r'^#\|\s*hide\s*$', source, re.M): return ''
    outputs = [output(o, c['id'], images) for o in c['outputs']]
    if re.search(r'^#\|\s*echo:\s*false\s*$', source, re.M): return '\n\n'.join(filter(None, outputs))
    code = '\n'.join(l for l in source.splitlines() if not l.startswith('#|')).strip()
    return '\n\n'.join(filter(None, [f'```python\n{code}\n```', *outputs]))

def readme(root=ROOT):
    "The README's text, and its figures by file name."
    images, cells = {}, json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']
    body = '\n\n'.join(filter(None, (cell(c, images) for c in cells)))
    return f'<!-- Made from nbs/index.ipynb by nbs/_site/readme.py. Edit the notebook. -->\n\n{body}\n', images

def main():
    text, images = readme()
    (ROOT/IMAGES).mkdir(exist_ok=True)
    for old in (ROOT/IMAGES).glob('*.png'): old.unlink()
    for name,png in images.items(): (ROOT/IMAGES/name).write_bytes(png)
    (ROOT/'README.md').write_text(text, encoding='utf-8')

if __name__ == '__main__': main()
