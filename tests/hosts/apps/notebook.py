# The cells of a notebook, for Voila and nbconvert.
# %%
import json
import os

from mlc_widget import ChatWidget, create_kernel_mlc_engine

engine = await create_kernel_mlc_engine(
    os.environ["MODEL"], runtime="scripted", runtime_options=json.loads(os.environ["SCRIPT"])
)
# %%
chat = ChatWidget(engine)
chat
