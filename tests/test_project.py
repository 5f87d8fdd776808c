"The project agrees with itself: metadata, notebooks, package, README, structure."
import ast, configparser, json, re, shutil, subprocess, sys, tomllib
from pathlib import Path
import pytest
from conftest import ROOT
import coderank_qdrant
import measure_style

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
    assert (m['Version'], m['Summary'], m.get('License-Expression') or m.get('License')) == (CFG['version'], CFG['description'], CFG['license'])
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

CHAPTERS = {nb.stem.split('_', 1)[1]: int(nb.stem.split('_')[0]) for nb in NOTEBOOKS if nb.stem[0].isdigit()}

def imported(name):
    "The chapters that a module imports; modules are exported with relative imports."
    tree = ast.parse((ROOT/f'coderank_qdrant/{name}.py').read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {node.module for node in found if node.level == 1 and node.module}

def test_chapters_are_numbered_without_a_gap():
    assert sorted(CHAPTERS.values()) == list(range(len(CHAPTERS)))

def test_chapters_import_only_earlier_ones():
    used = {name: imported(name) for name in CHAPTERS}
    assert 'places' in used['pipeline'] and sum(map(len, used.values())) > 100, 'imports are found'
    upward = [(name, other) for name,others in used.items() for other in others if CHAPTERS[other] >= CHAPTERS[name]]
    assert not upward

def test_what_people_type_is_listed_by_hand():
    import coderank_qdrant.all as everything
    names = set(everything.__all__)
    assert len(names) <= 30
    assert {'read_corpus', 'embed_corpus', 'index_run', 'search', 'run_report'} <= names
    here = {name for name in vars(everything) if not name.startswith('_')}
    assert names == here

def test_every_module_has_its_chapter():
    modules = {p.stem for p in (ROOT/'coderank_qdrant').glob('*.py')} - {'__init__', '_modidx', 'all'}
    assert modules == set(CHAPTERS)

def definition(chapter, name):
    "The source of a function, class or constant of a chapter."
    text = (ROOT/f'coderank_qdrant/{chapter}.py').read_text()
    for node in ast.parse(text).body:
        names = [getattr(node, 'name', '')] + [t.id for t in getattr(node, 'targets', []) if isinstance(t, ast.Name)]
        if name in names: return ast.get_source_segment(text, node)
    raise AssertionError(f'walks.ipynb names {chapter}.{name}, which is not there')

def steps(block):
    "(depth, chapter, name) of each line of a walk."
    for line in block.strip('\n').splitlines():
        found = re.match(r'( *)(\w+)\.(\w+)', line)
        yield len(found[1]) // 2, found[2], found[3]

def test_walks_go_where_the_code_goes():
    text = '\n'.join(source(c) for c in cells(ROOT/'nbs/walks.ipynb'))
    blocks = re.findall(r'```text\n(.*?)```', text, re.S)
    assert len(blocks) == 5
    for block in blocks:
        path = []
        for depth,chapter,name in steps(block):
            path = [*path[:depth], (chapter, name)]
            definition(chapter, name)
            if not depth: continue
            caller = path[depth - 1]
            assert re.search(rf'\b{name}\b', definition(*caller)), f'{".".join(caller)} does not call {chapter}.{name}'
            assert CHAPTERS[chapter] <= CHAPTERS[caller[0]], f'{chapter} is later than {caller[0]}'

@pytest.mark.parametrize('command', [['ruff', 'check', '-q'], ['mypy']], ids=lambda command: command[0])
def test_the_checkers_have_nothing_to_say(command):
    program = Path(sys.executable).with_name(command[0])
    said = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout[-3000:]

def test_code_stays_plain():
    "The numbers of tests/measure_style.py: a mirror, held up to every change."
    found = {**measure_style.measure_package(ROOT/'coderank_qdrant'), **measure_style.measure_notebooks(ROOT/'nbs')}
    biggest = next(value for what,value in found.items() if what.startswith('biggest module'))
    assert found['nodes a line'] <= 14.5 and found['lines over 120 columns, %'] == 0
    assert found['cell, median lines'] <= 12 and found['functions a cell'] <= 1.3
    assert biggest <= 450 and found['function, p90 lines'] <= 15

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
