"The Quickstart as a newcomer follows it: its own commands, on a folder of twenty small files."
import importlib.util, json, re, shutil, subprocess, sys
import pytest
from conftest import ROOT
from coderank_qdrant.search import search

sys.path.insert(0, str(ROOT/'nbs/_site'))
from quickstart import BLOCK, MOVING, PAGE, environment, run, steps
from sample import FILES, make_folder

QUESTIONS = {'How do refunds get paid?': 'docs/refunds.md',
             'what to do when the nightly backup fails': 'docs/backups.md',
             'function that computes the shipping cost of a parcel': 'shop/shipping.py'}

def plain(text): return re.sub(r'[\d.,:]+', 'N', text)

def python_blocks():
    "The Python on the pages that are no chapters; it stands on what the Quickstart made. Some needs what is optional."
    found = [block for page in sorted((ROOT/'nbs').glob('[a-z]*/*.md')) for block in re.findall(r'```python\n(.*?)```', page.read_text(encoding='utf-8'), re.S)]
    return found if importlib.util.find_spec('langchain_core') else [block for block in found if 'langchain' not in block]

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
