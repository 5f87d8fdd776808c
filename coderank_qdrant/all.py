"""What people type, for `from coderank_qdrant.all import *`; everything else is reached through its module."""
from coderank_qdrant.show import file_table, html_table
from coderank_qdrant.command import InputError
from coderank_qdrant.places import find_input, work_dir
from coderank_qdrant.corpus import read_corpus
from coderank_qdrant.models import MODELS
from coderank_qdrant.chunking import demo_corpus
from coderank_qdrant.routing import PROFILES
from coderank_qdrant.planning import plot_lengths
from coderank_qdrant.report import run_report
from coderank_qdrant.teams import release_models
from coderank_qdrant.outputs import plot_map
from coderank_qdrant.pipeline import embed_corpus, verify_run
from coderank_qdrant.index import index_run
from coderank_qdrant.questions import question_embedder
from coderank_qdrant.search import search, search_box
from coderank_qdrant.judged import make_queries
from coderank_qdrant.evaluate import compare, evaluate, plot_modes
from coderank_qdrant.session import check_environment, default_profile, resume_attached

__all__ = ['InputError', 'MODELS', 'PROFILES', 'check_environment', 'compare', 'default_profile', 'demo_corpus',
           'embed_corpus', 'evaluate', 'file_table', 'find_input', 'html_table', 'index_run', 'make_queries', 'plot_lengths',
           'plot_map', 'plot_modes', 'question_embedder', 'read_corpus', 'release_models', 'resume_attached', 'run_report',
           'search', 'search_box', 'verify_run', 'work_dir']
