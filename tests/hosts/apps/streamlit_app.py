import json
import os

import streamlit as st

from mlc_widget import ChatWidget, KernelMLCEngine


@st.cache_resource
def load():
    engine = KernelMLCEngine(runtime="scripted", runtime_options=json.loads(os.environ["SCRIPT"]))
    engine.reload(os.environ["MODEL"])
    return engine


st.write(ChatWidget(load()))
if message := st.chat_input("Message"):
    chunks = load().chat.completions.create(
        messages=[{"role": "user", "content": message}], stream=True
    )
    with st.chat_message("assistant"):
        st.write_stream(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
