"""Made-up T4s for tests: `cards` gives the environment in which every Python process has them.

The folder itself goes first on PYTHONPATH: its sitecustomize patches torch. See pretend_board for the settings and
pretend_torch for what is counted and which faults can be made."""
import json, os, subprocess, sys
from pathlib import Path
import pytest
from .pretend_board import kind_of, read_board, write_board

HERE = Path(__file__).resolve().parent

def environment(board, kind='T4x2', env=None, **options):
    "The environment of a machine with made-up cards; `options` are those of pretend_board's `KIND`."
    options['put'] = {place: repr(value) for place,value in options.get('put', {}).items()}
    Path(board).mkdir(parents=True, exist_ok=True)
    env = dict(os.environ if env is None else env)
    paths = [str(HERE), *filter(None, [env.get('PYTHONPATH')])]
    env.update(PYTHONPATH=os.pathsep.join(paths), PATH=f'{HERE}/bin{os.pathsep}{env["PATH"]}', PRETEND_BOARD=str(board),
               PRETEND_GPUS=json.dumps({**kind_of(kind), **options}), TOKENIZERS_PARALLELISM='false')
    return env

def read_log(env):
    "What the processes wrote that used cards: a list of dict of pid, argv, held, cards, counts, loads."
    return [p for p in read_board(env['PRETEND_BOARD']).values() if p.get('cards')]

def ask(env, code, *options, timeout=120):
    "What a program prints last, as JSON."
    code = f'import json, torch\ncuda = torch.cuda\n{code}'
    p = subprocess.run([sys.executable, *options, '-c', code], env=env, capture_output=True, text=True, timeout=timeout)
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout.splitlines()[-1])

def hold(env, card, mib):
    "Let this process hold memory of a card, as somebody else's program would; 0 lets go."
    count = json.loads(env['PRETEND_GPUS'])['count']
    write_board(env['PRETEND_BOARD'], os.getpid(), dict(held=[mib * 2**20 * (i == card) for i in range(count)]))

@pytest.fixture
def cards(tmp_path):
    "Makes environments with made-up cards, each with a board of its own and a kept calibration of nobody else's."
    made = []
    def make(kind='T4x2', env=None, **options):
        made.append(tmp_path/f'board{len(made)}')
        return {**environment(made[-1], kind, env, **options), 'XDG_CACHE_HOME': str(made[-1]/'cache')}
    return make
