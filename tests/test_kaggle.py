"The Kaggle notebook in a made-up Kaggle: the corpus under its mounts, a batch session, wheels instead of the internet."
import importlib.metadata, io, json, os, shutil, subprocess, sys, zipfile
from email.parser import Parser
from pathlib import Path
import pytest
from conftest import ROOT, read_jsonl, run_cli, summary_of, write_file
from leftovers import KAGGLE, kaggle_lock, remove_stale
from coderank_qdrant.events import read_metrics, split_runs
from coderank_qdrant.kaggle import carried_wheel, is_payload
from coderank_qdrant.workers import set_up

def executed(nb, cwd, env):
    "Run a notebook as a batch session does; returns the process and the executed notebook."
    pytest.importorskip('nbconvert')
    code = 'import sys, nbformat; from execute import execute; nbformat.write(execute(sys.argv[1], sys.argv[2]), sys.argv[3])'
    out = Path(cwd)/'executed.ipynb'
    out.unlink(missing_ok=True)
    p = subprocess.run([sys.executable, '-c', code, nb, cwd, out], env={**os.environ, **env, 'PYTHONPATH': f'{ROOT/"nbs/_site"}'}, capture_output=True, text=True, timeout=900)
    return p, json.loads(out.read_text()) if out.exists() else None

@pytest.fixture
def notebook(tmp_path, tiny):
    "The notebook with Kaggle's two folders moved into a temporary one, and a small model in the settings."
    nb = json.loads((ROOT/'nbs/kaggle.ipynb').read_text())
    inputs = f"'{tmp_path}/kaggle/input'"
    for c in nb['cells']:
        s = ''.join(c['source']).replace("'/kaggle/input'", inputs).replace('find_input(INPUT)', f'find_input(INPUT, {inputs})').replace('resume_attached(out)', f'resume_attached(out, {inputs})')
        s = s.replace("PROFILE = 'auto' ", f"PROFILE = '{tiny}'").replace('work_dir()', f"Path('{tmp_path}/working')")
        c['source'] = s.splitlines(True)
    (tmp_path/'nb.ipynb').write_text(json.dumps(nb))
    return tmp_path/'nb.ipynb'

def put_corpus(root, n=30):
    for i in range(3): write_file(root, f'docs{i}/a_chunks.json', [f'text {i} {j} ' * (j + 1) for j in range(n)], 'a.md')

def test_runs_to_the_end_on_an_attached_corpus(notebook, tmp_path):
    root = tmp_path/'kaggle/input/datasets/ann/qdrant-ecosystem'
    put_corpus(root)
    (root/'docs0/broken_chunks.json').write_text('{"chunks": [')
    p, nb = executed(notebook, tmp_path, dict(KAGGLE_KERNEL_RUN_TYPE='Batch'))
    assert nb, p.stderr
    s = summary_of(tmp_path/'working/qdrant_ecosystem_embeddings', 'qdrant_ecosystem')
    assert s['account']['embedded'] == 90 and s['collection'] == 'qdrant_ecosystem' and [x['kind'] for x in s['problems']] == ['not_json']
    shown = json.dumps(nb)
    for said in 'Kaggle, Batch session', 'GPU T4 x2', 'broken_chunks.json', 'Smallest cosine', 'Time by phase', 'not read: not json': assert said in shown, said

def test_goes_on_from_an_attached_output(notebook, tmp_path):
    put_corpus(tmp_path/'kaggle/input/qdrant-ecosystem')
    p, nb = executed(notebook, tmp_path, {})
    assert nb, p.stderr
    earlier = tmp_path/'kaggle/input/notebooks/ann/embed-my-docs'
    earlier.mkdir(parents=True)
    shutil.move(tmp_path/'working/qdrant_ecosystem_embeddings', earlier)
    first = read_jsonl(earlier/'qdrant_ecosystem_embeddings/qdrant_ecosystem_embeddings.jsonl')
    p, nb = executed(notebook, tmp_path, {})
    out = tmp_path/'working/qdrant_ecosystem_embeddings'
    assert nb, p.stderr
    assert 'Going on from' in json.dumps(nb) and summary_of(out, 'qdrant_ecosystem')['computed'] == 0
    assert read_jsonl(out/'qdrant_ecosystem_embeddings.jsonl') == first
    assert len(split_runs(read_metrics(out/'metrics.jsonl')[0])) == 2

def test_a_dry_run_goes_through(notebook, tmp_path):
    put_corpus(tmp_path/'kaggle/input/qdrant-ecosystem')
    notebook.write_text(notebook.read_text().replace('DRY_RUN = False', 'DRY_RUN = True'))
    p, nb = executed(notebook, tmp_path, {})
    assert nb, p.stderr
    assert 'The run is planned' in json.dumps(nb) and not list((tmp_path/'working').glob('*/*.jsonl'))

def test_two_corpora_of_one_name_are_an_error_in_words(notebook, tmp_path):
    for place in 'datasets/ann/qdrant-ecosystem', 'qdrant-ecosystem': write_file(tmp_path/'kaggle/input'/place, 'docs/a_chunks.json', ['x'])
    p, nb = executed(notebook, tmp_path, {})
    assert nb is None and 'in 2 places' in p.stderr

def push(*args): return run_cli(*args, command='coderank_kaggle', module='kaggle')

def test_push_folder(tmp_path):
    p = push(tmp_path/'push', '--owner', 'ann', '--corpus', 'my_docs,bob/his-docs', '--models', 'ann/m/transformers/default/1')
    assert p.returncode == 0, p.stderr
    meta, data = (json.loads((tmp_path/'push'/f).read_text()) for f in ('kernel-metadata.json', 'wheels/dataset-metadata.json'))
    assert meta['dataset_sources'] == ['ann/my-docs', 'bob/his-docs', 'ann/coderank-qdrant-wheels'] and data['id'] == 'ann/coderank-qdrant-wheels'
    assert (meta['enable_gpu'], meta['machine_shape'], meta['enable_internet'], meta['model_sources']) == (True, 'NvidiaTeslaT4', True, ['ann/m/transformers/default/1'])
    nb = json.loads((tmp_path/'push'/meta['code_file']).read_text())
    ours = json.loads((ROOT/'nbs/kaggle.ipynb').read_text())
    plain = lambda nb: [''.join(c['source']) for c in nb['cells'] if not is_payload(c)]
    assert plain(nb) == plain(ours) and sum(map(is_payload, nb['cells'])) == 1
    assert carried_wheel(nb)[1] == next((tmp_path/'push/wheels').glob('*.whl')).read_bytes()
    assert [w.name.split('-')[0] for w in (tmp_path/'push/wheels').glob('*.whl')] == ['coderank_qdrant']
    wheel = next((tmp_path/'push/wheels').glob('*.whl'))
    assert 'coderank_qdrant/kaggle.ipynb' in zipfile.ZipFile(wheel).namelist(), 'an installed package can make the folder too'
    assert push(tmp_path/'push', '--owner', 'ann').returncode == 0, 'a second time into the same folder'

def repository_notebook(): return json.loads((ROOT/'nbs/kaggle.ipynb').read_text(encoding='utf-8'))

def test_the_notebook_carries_the_package_as_it_is():
    name, data = carried_wheel(repository_notebook())
    wheel = zipfile.ZipFile(io.BytesIO(data))
    modules = {p.name: p.read_bytes() for p in (ROOT/'coderank_qdrant').glob('*.py')}
    carried = {Path(n).name: wheel.read(n) for n in wheel.namelist() if n.startswith('coderank_qdrant/') and n.endswith('.py')}
    stale = [n for n in modules.keys() | carried.keys() if modules.get(n) != carried.get(n)]
    assert not stale, f'{stale} changed after the wheel was made: run nbs/_site/wheel.py'
    meta = Parser().parsestr(wheel.read(next(n for n in wheel.namelist() if n.endswith('/METADATA'))).decode())
    assert set(meta.get_all('Requires-Dist')) == set(importlib.metadata.metadata('coderank_qdrant').get_all('Requires-Dist'))
    inner = json.loads(wheel.read('coderank_qdrant/kaggle.ipynb'))
    assert sum(map(is_payload, inner['cells'])) == 1 and 'WHEEL = ' not in json.dumps(inner), 'a wheel cannot carry itself'

@pytest.fixture
def bare(tmp_path):
    "An environment that has neither the package nor anything else, but says that it has torch."
    subprocess.run([sys.executable, '-m', 'venv', tmp_path/'venv'], check=True)
    site = next((tmp_path/'venv/lib').glob('python3*/site-packages'))
    (site/'torch-2.10.0.dist-info').mkdir()
    (site/'torch-2.10.0.dist-info/METADATA').write_text('Metadata-Version: 2.1\nName: torch\nVersion: 2.10.0\n')
    return tmp_path/'venv/bin/python'

def set_up(python, nb, cwd):
    "Run the notebook's setup cells and nothing else; pip may ask no index and brings no dependency."
    sources = [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
    last = next(i for i,s in enumerate(sources) if s.rstrip().endswith('install()'))
    code = '\n'.join(sources[last-4:last+1]) + "\nprint(importlib.util.find_spec('coderank_qdrant').origin)"
    env = {k: v for k,v in os.environ.items() if k != 'PYTHONPATH'} | dict(PIP_NO_INDEX='1', PIP_NO_DEPS='1', PIP_DISABLE_PIP_VERSION_CHECK='1')
    return subprocess.run([python, '-'], input=code, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)

def test_the_notebook_alone_installs_the_package_without_an_index(bare, tmp_path):
    (tmp_path/'pip.py').write_text('raise SystemExit("a pip.py beside the notebook was run")')
    p = set_up(bare, repository_notebook(), tmp_path)
    assert p.returncode == 0 and str(tmp_path/'venv') in p.stdout, p.stderr
    installed = Path(p.stdout.strip()).parent
    assert (installed/'models.py').read_bytes() == (ROOT/'coderank_qdrant/models.py').read_bytes()

def test_a_notebook_whose_package_was_changed_is_refused(bare, tmp_path):
    nb = repository_notebook()
    cell, = filter(is_payload, nb['cells'])
    line = len(cell['source']) // 2
    cell['source'][line] = ('B' if cell['source'][line][0] == 'A' else 'A') + cell['source'][line][1:]
    p = set_up(bare, nb, tmp_path)
    assert p.returncode and 'package in this notebook is damaged' in p.stderr

def test_a_wheel_is_made_again_from_an_installation(tmp_path, bare):
    p = set_up(bare, repository_notebook(), tmp_path)
    assert p.returncode == 0, p.stderr
    site = Path(p.stdout.strip()).parents[1]
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import coderank_qdrant.kaggle as k; print(k.checkout(), k.build_wheel({str(tmp_path)!r}))"
    made = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0 and made.stdout.startswith('None '), made.stderr
    name, data = carried_wheel(repository_notebook())
    contents = lambda f: {n: z.read(n) for z in [zipfile.ZipFile(f)] for n in z.namelist() if not n.endswith('RECORD')}
    assert contents(tmp_path/name) == contents(io.BytesIO(data))

def test_push_folder_spares_what_is_not_its_own(tmp_path):
    (tmp_path/'push/wheels').mkdir(parents=True)
    (tmp_path/'push/wheels/mine.txt').write_text('mine')
    p = push(tmp_path/'push')
    assert p.returncode == 2 and 'no wheelhouse' in p.stderr and (tmp_path/'push/wheels/mine.txt').exists()

def versions_in(python):
    code = 'import importlib.metadata as m, json, re; print(json.dumps({re.sub("[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in m.distributions()}))'
    return json.loads(subprocess.run([python, '-I', '-c', code], capture_output=True, text=True, check=True).stdout)

def kaggle_python(tmp_path):
    "An environment with what Kaggle has; torch's CPU build stands in for Kaggle's."
    from coderank_qdrant.kaggle import PREINSTALLED
    python = tmp_path/'venv/bin/python'
    subprocess.run([sys.executable, '-m', 'venv', tmp_path/'venv'], check=True)
    there = [f'{n}=={v}' for n,v in PREINSTALLED.items() if n != 'torch'] + ['matplotlib', 'fastcore<2', 'nbconvert', 'ipykernel', f'torch=={versions_in(sys.executable)["torch"]}']
    subprocess.run([python, '-m', 'pip', 'install', '-q', *there], check=True)
    return python

def test_only_our_own_stale_link_is_removed(tmp_path):
    ours, theirs, folder = tmp_path/'ours', tmp_path/'theirs', tmp_path/'folder'
    ours.symlink_to('/tmp/pytest-of-ann/pytest-3/kaggle')
    theirs.symlink_to('/mnt/kaggle')
    folder.mkdir()
    for path in ours, theirs, folder, tmp_path/'none': remove_stale(path)
    assert not ours.is_symlink() and theirs.is_symlink() and folder.is_dir()

@pytest.fixture
def kaggle_root(tmp_path):
    "Kaggle's own folder, at its own place; only where there is none and we may make it, one run at a time."
    with kaggle_lock() as mine:
        if not mine: pytest.skip(f'another run of these tests has {KAGGLE}')
        remove_stale(KAGGLE)
        try: os.symlink(tmp_path/'kaggle', KAGGLE)
        except OSError as e: pytest.skip(f'{KAGGLE} cannot be made here ({e.strerror})')
        yield tmp_path/'kaggle'
        os.unlink(KAGGLE)

@pytest.mark.slow
def test_pushed_notebook_runs_without_internet_on_what_kaggle_has(tmp_path, kaggle_root):
    from coderank_qdrant.kaggle import PREINSTALLED
    here = '.'.join(map(str, sys.version_info[:2]))
    p = push(tmp_path/'push', '--wheels', '--owner', 'ann', '--python', here)
    assert p.returncode == 0, p.stderr
    told = p.stderr
    names = [f.name.split('-')[0] for f in (tmp_path/'push/wheels').glob('*.whl')]
    assert not [n for n in names if n.startswith(('torch', 'nvidia_', 'triton')) and n != 'nvidia_ml_py'] and 'torch is not among them' in p.stderr

    python = kaggle_python(tmp_path)
    before = versions_in(python)
    assert all(before[n] == v for n,v in PREINSTALLED.items() if n != 'torch') and 'coderank-qdrant' not in before

    for d in 'working', 'input/datasets/ann': (kaggle_root/d).mkdir(parents=True)
    shutil.copytree(tmp_path/'push/wheels', kaggle_root/'input/datasets/ann/coderank-qdrant-wheels')
    put_corpus(kaggle_root/'input/datasets/ann/qdrant-ecosystem')
    dead = dict.fromkeys(('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY'), 'http://127.0.0.1:9')
    env = {k: v for k,v in os.environ.items() if not k.startswith('PIP_') and k != 'PYTHONPATH'} | dead | dict(
        PIP_CONFIG_FILE=os.devnull, HF_HUB_DISABLE_TELEMETRY='1', KAGGLE_KERNEL_RUN_TYPE='Batch', no_proxy='127.0.0.1,localhost')
    alone = ['unshare', '-rn', 'sh', '-c', 'ip link set lo up && exec "$@"', 'sh']  # a network of its own, with nothing in it
    if subprocess.run([*alone, 'true'], capture_output=True).returncode: alone = []
    cmd = [*alone, python, '-m', 'nbconvert', '--to', 'notebook', '--execute', '--output-dir', kaggle_root/'working', tmp_path/'push/kaggle.ipynb']
    p = subprocess.run(list(map(str, cmd)), cwd=kaggle_root/'working', env=env, capture_output=True, text=True, timeout=900)
    assert p.returncode == 0, p.stderr[-3000:]
    shown = (kaggle_root/'working/kaggle.ipynb').read_text()
    assert 'Kaggle, Batch session' in shown and '90/90 chunks (100.0%)' in shown and '["Internet", "off"' not in shown
    assert summary_of(kaggle_root/'working/qdrant_ecosystem_embeddings', 'qdrant_ecosystem')['account']['embedded'] == 90

    after = versions_in(python)
    changed = {n: (before[n], after[n]) for n in before if before[n] != after.get(n)}
    assert after['torch'] == before['torch'] and after['numpy'] == before['numpy'] and after['fastcore'] == before['fastcore']
    assert set(changed) == {'transformers', 'sentence-transformers', 'tokenizers'}
    assert all(f'{n} {a} by {b}' in told for n,(a,b) in changed.items()), 'what is replaced was said beforehand'
