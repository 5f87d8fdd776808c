"The project agrees with itself: metadata, notebooks, package, README, structure."
import ast, configparser, json, re, shutil, subprocess, sys, tomllib
from pathlib import Path
import pytest
from conftest import ROOT
import coderank_qdrant

sys.path.insert(0, str(ROOT/'nbs/_site'))
from execute import page
from readme import readme

NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
CFG = configparser.ConfigParser(delimiters='=')
CFG.read(ROOT/'settings.ini')
CFG = CFG['DEFAULT']

def cells(nb): return json.loads(nb.read_text(encoding='utf-8'))['cells']
def source(c): return ''.join(c['source'])

def test_metadata_agrees():
    py = tomllib.loads((ROOT/'pyproject.toml').read_text())
    assert CFG['version'] == coderank_qdrant.__version__
    assert CFG['lib_name'] == py['project']['name'] == CFG['lib_path'] == py['tool']['nbdev']['lib_path']
    assert CFG['nbs_path'] == py['tool']['nbdev']['nbs_path']
    assert set(py['project']) == {'name', 'dynamic'}, 'metadata belongs in settings.ini'

def test_installed_metadata_is_that_of_settings():
    from importlib.metadata import metadata, entry_points
    m = metadata('coderank_qdrant')
    assert (m['Version'], m['Summary'], m['License-Expression'] or m['License']) == (CFG['version'], CFG['description'], CFG['license'])
    mine = {e.name: e.value for e in entry_points(group='console_scripts') if e.value.startswith('coderank_qdrant') or e.name == 'nbdev_test'}
    assert mine == dict(s.split('=') for s in CFG['console_scripts'].split())

def test_constraints_cover_the_requirements():
    pinned = {l.split('==')[0].lower().replace('_', '-') for l in (ROOT/'constraints.txt').read_text().splitlines() if '==' in l}
    wanted = [r for k,v in CFG.items() if k.endswith('requirements') for r in v.split()]
    missing = {n for r in wanted if (n := re.split('[<>=]', r)[0].lower().replace('_', '-')) not in pinned}
    assert not missing
    assert 'torch==2.13.0' in (ROOT/'constraints.txt').read_text().split()

def test_readme_commands_exist():
    text, make = (ROOT/'README.md').read_text(), (ROOT/'Makefile').read_text()
    named = set(re.findall(r'`?make (\w+)', text))
    assert {'demo', 'test', 'docs', 'slow', 'bench', 'oldest'} <= named
    assert all(re.search(rf'^{t}:', make, re.M) for t in named)
    assert 'make test' in (ROOT/'.ci/run').read_text()

def test_readme_is_in_step_with_index():
    text, images = readme()
    assert (ROOT/'README.md').read_text(encoding='utf-8') == text
    assert {p.name: p.read_bytes() for p in (ROOT/'nbs/index_files').glob('*.png')} == images

def test_package_is_in_step_and_notebooks_are_clean(tmp_path):
    files = [f for f in subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines() if (ROOT/f).is_file()]
    for f in files:
        (tmp_path/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/f, tmp_path/f)
    for cmd in 'nbdev-export', 'nbdev-clean': subprocess.run([Path(sys.executable).with_name(cmd)], cwd=tmp_path, check=True)
    changed = [f for f in files if (ROOT/f).read_bytes() != (tmp_path/f).read_bytes()]
    assert not changed

def test_chapters_import_only_earlier_ones():
    number = {nb.stem.split('_', 1)[1]: nb.stem.split('_')[0] for nb in NOTEBOOKS if nb.stem[0].isdigit()}
    for name,n in number.items():
        tree = ast.parse((ROOT/f'coderank_qdrant/{name}.py').read_text())
        used = {i.module.split('.')[1] for i in ast.walk(tree) if isinstance(i, ast.ImportFrom) and (i.module or '').startswith('coderank_qdrant.')}
        assert all(number[u] < n for u in used), f'{name} imports {used}'

def test_all_imports_every_module():
    names = {p.stem for p in (ROOT/'coderank_qdrant').glob('*.py')} - {'__init__', '_modidx', 'all'}
    assert names == set(re.findall(r'^from coderank_qdrant\.(\w+) import', (ROOT/'coderank_qdrant/all.py').read_text(), re.M))

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_manners(nb):
    cs = cells(nb)
    opening = source(cs[0]) + source(cs[1])
    assert opening.startswith('# ') and '>' in opening
    for c in cs:
        s = source(c)
        if c['cell_type'] != 'code':
            assert not re.search(r'^#{1,6} .*\n+\S', s, re.M) or s.startswith(('---', '# ')) or '\n' not in s.strip(), f'a heading stands in a cell of its own: {s[:80]}'
            continue
        assert s.isascii(), f'not ASCII: {s[:80]}'
        lines = [l for l in s.splitlines() if l.strip() and not l.startswith('#')]
        imports = [bool(re.match(r'(import|from) ', l)) for l in lines]
        assert all(imports) or not any(imports), f'imports stand in cells of their own: {s[:80]}'
        assert nb.stem != 'kaggle' or len(lines) <= 20 or 'WHEEL_HASH = ' in s, 'only the package itself is longer'

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda p: p.stem)
def test_nothing_of_a_machine_is_shown(nb):
    shown = json.dumps([c.get('outputs') for c in cells(nb)])
    assert not re.search(r'/(work|tmp|root|home/\w+|Users/\w+|opt)/', shown)

@pytest.mark.parametrize('name', ['kaggle', 'index'])
def test_committed_notebook_is_executed(name):
    import nbformat
    nb = nbformat.read(ROOT/f'nbs/{name}.ipynb', as_version=4)
    html = page(nb)
    assert 'data:image/png;base64' in html and '<table class="coderank"' in html
    assert not re.search(r'<(script|link|img)[^>]*(src|href)="https?:', html)
    assert not [o for c in nb.cells for o in c.get('outputs', []) if o.output_type == 'error']
