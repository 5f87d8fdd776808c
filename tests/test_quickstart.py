"The Quickstart as a newcomer follows it: its own commands, on a folder of twenty small files."
import importlib.util, json, re, shutil, subprocess, sys
from ast import literal_eval
import pytest
from conftest import ROOT
from coderank_qdrant.search import search

sys.path.insert(0, str(ROOT/'nbs/_site'))
from quickstart import BLOCK, MOVING, PAGE, environment, run, run_python, steps
from sample import FILES, make_folder

QUESTIONS = {'How do refunds get paid?': 'docs/refunds.md',
             'what to do when the nightly backup fails': 'docs/backups.md',
             'function that computes the shipping cost of a parcel': 'shop/shipping.py'}

def plain(text): return re.sub(r'[\d.,:]+', 'N', text)

def python_blocks(every=False):
    "The Python on the pages that are no chapters; it stands on what the Quickstart made. Some needs what is optional."
    found = [block for page in sorted((ROOT/'nbs').glob('[a-z]*/*.md')) for block in re.findall(r'```python\n(.*?)```', page.read_text(encoding='utf-8'), re.S)]
    return found if every or importlib.util.find_spec('langchain_core') else [block for block in found if 'langchain' not in block]

def first_page():
    "The Markdown that the cells of the first page made."
    cells = json.loads((ROOT/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']
    return '\n'.join(''.join(output['data']['text/markdown']) for cell in cells for output in cell.get('outputs', []) if 'text/markdown' in output.get('data', {}))

def ten_lines(): return BLOCK.search(first_page())[1]

@pytest.mark.slow
def test_ten_lines_of_the_first_page_run_as_they_stand(tmp_path):
    "In a folder with nothing in it, and they print what the page says they do; packages of other versions have other texts."
    printed, shown = [text.splitlines() for text in (run_python(ten_lines(), tmp_path), BLOCK.search(first_page())[2])]
    assert len(ten_lines().splitlines()) == 10 and plain(printed[0]) == plain(shown[0]) and len(printed) == len(shown) == 5
    assert literal_eval(printed[1])['found'] == literal_eval(printed[1])['embedded'] > 50 and 'huggingface-hub' in printed[2]
    assert {path.name for path in tmp_path.iterdir()} - {'block.py', 'cache'} == {'try'}

def test_the_four_commands_lead_to_the_right_files(tmp_path, monkeypatch, capsys):
    assert len(FILES) == 20
    make_folder(tmp_path/'my_docs')
    commands = [command for command,_ in steps()]
    assert [command.split()[0] for command in commands] == ['coderank_chunk', 'coderank_embed', 'coderank_index', 'coderank_search']
    printed = [run(command, tmp_path) for command in commands]
    assert plain(printed[0]) == plain(steps()[0][1]) and plain(printed[3]) == plain(steps()[3][1]), 'nbs/_site/quickstart.py writes them anew'
    assert re.search(r"'(.*)'", commands[3])[1] == next(iter(QUESTIONS)) and 'docs/refunds.md:' in printed[3].splitlines()[0]
    for question,file in QUESTIONS.items():
        assert search(question, tmp_path/'index', limit=3)[0].metadata['source'] == file
    monkeypatch.chdir(tmp_path)
    assert python_blocks()
    printed = dict(BLOCK.findall(MOVING.read_text(encoding='utf-8')))
    assert len(printed) == 4
    for block in python_blocks():
        capsys.readouterr()
        exec(compile(block, 'page', 'exec'), {})
        if block in printed: assert plain(capsys.readouterr().out) == plain(printed[block]), 'nbs/_site/quickstart.py writes it anew'

@pytest.mark.slow
def test_the_quickstart_in_a_fresh_environment(tmp_path):
    install = re.search(r'^pip install .*$', PAGE.read_text(encoding='utf-8'), re.M)[0]
    source = tmp_path/'source'
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns('.venv*', '.git', '_docs', '_proc', 'output'))
    subprocess.run([sys.executable, '-m', 'venv', tmp_path/'venv'], check=True)
    env = {**environment(tmp_path), 'PATH': f'{tmp_path}/venv/bin:/usr/bin:/bin', 'PIP_CONSTRAINT': str(ROOT/'constraints.txt')}
    env.pop('PYTHONPATH', None)
    subprocess.run(install, shell=True, cwd=source, env=env, check=True)
    make_folder(tmp_path/'my_docs')
    for command,_ in steps(): subprocess.run(command, shell=True, cwd=tmp_path, env=env, check=True)
    for question,file in QUESTIONS.items():
        done = subprocess.run(['coderank_search', question, '--location', 'index', '--json'], cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
        assert json.loads(done.stdout)[0]['metadata']['source'] == file
