"The repository's notebook on Kaggle with two made-up T4s: Run All, and Run All again in the same kernel."
import json, os, shutil, subprocess
from collections import Counter
import nbformat, pytest
from nbclient import NotebookClient
from conftest import ROOT, also, read_jsonl, summary_of, write_file
from pretend_hub import pretend_hub
from pretend_t4 import read_log
from test_kaggle import kaggle_python, kaggle_root, versions_in  # noqa: F401, a fixture

NAMES = 'CodeRankEmbed', 'CodeRankLLM', 'nomic-embed-code'
NAME, OUT = 'qdrant_ecosystem', 'working/qdrant_ecosystem_embeddings'

@pytest.fixture
def three(missions_models): return {name: missions_models/name for name in NAMES}

def put_corpus(root):
    for i in range(2):
        write_file(root, f'code{i}/a_chunks.json', [f'def area_{i}_{j}(r):\n    return {j} * r ** 2' for j in range(12)], f'src/a{i}.py')
        write_file(root, f'docs{i}/b_chunks.json', [f'Page {i} {j} says how vectors are compared. ' * (j + 1) for j in range(12)], f'docs/b{i}.md')
    (root/'docs0/broken_chunks.json').write_text('{"chunks": [')

class RunAll:
    "A kernel in which the notebook is run from its first cell to its last, as often as one likes."
    def __init__(self, root, env):
        nb = nbformat.read(ROOT/'nbs/kaggle.ipynb', as_version=4)
        self.client = NotebookClient(nb, timeout=600, kernel_name='python3', resources={'metadata': {'path': str(root/'working')}})
        self.kernel = self.client.setup_kernel(env={**env, 'KAGGLE_KERNEL_RUN_TYPE': 'Interactive'})
        self.kernel.__enter__()

    def __call__(self):
        "What each code cell shows, by the beginning of its source."
        self.client.reset_execution_trackers()
        cells = self.client.nb.cells
        for i,cell in enumerate(cells): self.client.execute_cell(cell, i)
        return {c.source.strip(): json.dumps(c.outputs) for c in cells if c.cell_type == 'code'}

    def close(self): self.kernel.__exit__(None, None, None)

@pytest.fixture
def run_all(kaggle_root, tmp_path):
    "Makes kernels on a machine with Kaggle's folders."
    made = []
    def make(env):
        for d in 'working', 'input': (kaggle_root/d).mkdir(parents=True, exist_ok=True)
        put_corpus(kaggle_root/'input/datasets/ann/qdrant-ecosystem')
        made.append(RunAll(kaggle_root, {**env, 'IPYTHONDIR': str(tmp_path/'ipython'), 'PYTHONPATH': f'{env["PYTHONPATH"]}{os.pathsep}{ROOT}'}))
        return made[-1]
    yield make
    for kernel in made: kernel.close()

def attach(kaggle_root, models):
    for name,folder in models.items(): shutil.copytree(folder, kaggle_root/f'input/models/ann/{name.lower()}/transformers/default/1')

def loads_of(env): return Counter(load.rstrip('/') for p in read_log(env) for load in p['loads'])
def busy_cards(env): return {i for p in read_log(env) if p['loads'] for i,c in enumerate(p['cards']) if c['operations'] > 100}

def check_run(root, shown):
    "Two models, each for what it is meant for, nothing stood in for; every chunk there, and a search over both."
    summary = summary_of(root/OUT, NAME)
    assert {m['name']: m['content_types'] for m in summary['models']} == {'CodeRankEmbed': ['code'], 'CodeRankLLM': ['docs']}
    assert not any(m['fallback_from'] for m in summary['models']) and summary['account']['embedded'] == 48 and not summary['quarantined']
    assert {len(e['embedding']) for e in read_jsonl(root/OUT/f'{NAME}_embeddings.jsonl')} == {768, 3584}
    assert set(summary['verified']) == {'CodeRankEmbed', 'CodeRankLLM'} and min(summary['verified'].values()) > .9999
    every = ' '.join(shown.values())
    for said in 'Time by phase', 'Smallest cosine', '48 points in', 'broken_chunks.json': assert said in every, said
    asked = next(outputs for source,outputs in shown.items() if source.startswith('search('))
    assert "'model': 'CodeRank" in asked and 'Searched without' not in asked, 'both models are asked, and one has the answer'
    return summary

def test_internet_on_run_all_twice(cards, three, run_all, kaggle_root, tmp_path):
    with pretend_hub({f'nomic-ai/{name}': folder for name,folder in three.items()}) as hub:
        weights = max(three['CodeRankLLM'].glob('*.safetensors'), key=lambda f: f.stat().st_size)
        hub.cut_once(weights.name, weights.stat().st_size // 2)
        env = cards(env={**hub.environment(tmp_path/'home')})
        notebook = run_all(env)
        shown = notebook()
        summary = check_run(kaggle_root, shown)
        assert 'fp16' in json.dumps(summary['models']) and busy_cards(env) == {0, 1}
        first, bytes_sent = (kaggle_root/OUT/f'{NAME}_embeddings.jsonl').read_bytes(), hub.sent(weights.name)
        assert bytes_sent < 1.5 * weights.stat().st_size + 2**24, 'the half that had come was kept'
        loads = loads_of(env)
        assert sorted(loads.values()) == [2, 2], loads  # a copy on each card, once
        assert 'downloading 0:' in next(outputs for source,outputs in shown.items() if source.startswith('plan ='))
        notebook()
        assert loads_of(env) == loads, 'nothing is loaded the second time'
        assert summary_of(kaggle_root/OUT, NAME)['computed'] == 0
        assert (kaggle_root/OUT/f'{NAME}_embeddings.jsonl').read_bytes() == first

def offline(env): return {**env, 'HF_HUB_OFFLINE': '1'}

@pytest.mark.parametrize('kind', ['T4', also('small')])
def test_internet_off_on_what_is_there(kind, cards, three, run_all, kaggle_root):
    attach(kaggle_root, three)
    env = offline(cards('T4') if kind == 'T4' else cards(total=14 * 1024))
    summary = check_run(kaggle_root, run_all(env)())
    assert all('fp16' in m['placement'] for m in summary['models']) and busy_cards(env) == ({0} if kind == 'T4' else {0, 1})

def test_a_P100_is_one_clear_line(cards, three, run_all, kaggle_root):
    from nbclient.exceptions import CellExecutionError
    attach(kaggle_root, three)
    env = offline(cards('P100'))
    with pytest.raises(CellExecutionError, match='choose GPU T4 x2'): run_all(env)()
    assert not loads_of(env)

@pytest.mark.slow
def test_a_bare_notebook_fetches_what_it_needs(cards, three, kaggle_root, tmp_path):
    "Nothing attached but a corpus, internet on: packages from the index, models from a hub, the package from the notebook."
    python = kaggle_python(tmp_path)
    assert 'coderank-qdrant' not in versions_in(python)
    (kaggle_root/'working').mkdir(parents=True)
    put_corpus(kaggle_root/'input/datasets/ann/qdrant-ecosystem')
    with pretend_hub({f'nomic-ai/{name}': folder for name,folder in three.items()}) as hub:
        env = cards(env=hub.environment(tmp_path/'home', KAGGLE_KERNEL_RUN_TYPE='Batch', no_proxy='127.0.0.1,localhost'))
        cmd = [python, '-m', 'nbconvert', '--to', 'notebook', '--execute', '--output-dir', kaggle_root/'working', ROOT/'nbs/kaggle.ipynb']
        p = subprocess.run(list(map(str, cmd)), cwd=kaggle_root/'working', env=env, capture_output=True, text=True, timeout=1500)
    assert p.returncode == 0, p.stderr[-3000:]
    cells = json.loads((kaggle_root/'working/kaggle.ipynb').read_text())['cells']
    shown = {''.join(c['source']).strip(): json.dumps(c['outputs']) for c in cells if c['cell_type'] == 'code'}
    summary = check_run(kaggle_root, shown)
    assert all('fp16' in m['placement'] for m in summary['models']) and busy_cards(env) == {0, 1}
    assert 'coderank-qdrant' in versions_in(python)
