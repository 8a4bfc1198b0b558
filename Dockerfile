# docker build -t yolo-slim . && docker run --rm -v "$PWD:/work" yolo-slim run model=best.pt data=my.yaml prune.target.flops=0.5
# On the CPU; for GPUs: docker build --build-arg TORCH=https://download.pytorch.org/whl/cu126 ..., docker run --gpus all ... device=0
FROM python:3.12-slim

ARG TORCH=https://download.pytorch.org/whl/cpu

# What opencv-python draws and reads with.
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir torch torchvision --index-url "$TORCH"
COPY pyproject.toml README.md LICENSE /src/
COPY yolo_slim /src/yolo_slim
RUN pip install --no-cache-dir "/src[export]" && rm -rf /src

WORKDIR /work
ENTRYPOINT ["yolo-slim"]
CMD ["--help"]
